"""The topics of a shop's support: how facts about them read, and how people ask for them."""

import re
from dataclasses import dataclass

_SLOT = re.compile(r"\$(\w+)")


@dataclass(frozen=True, slots=True)
class Topic:
    """Fact sentences with ``$slots`` and the wordings of a question about it."""

    facts: tuple[str, ...]
    wordings: tuple[str, ...]

    def slots(self, pattern: str) -> list[str]:
        """The names of the slots in a fact sentence."""
        return _SLOT.findall(pattern)


def _topic(facts: str, wordings: str) -> Topic:
    return Topic(tuple(_lines(facts)), tuple(_lines(wordings)))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


TOPICS = {
    "delivery": _topic(
        """
        Delivery takes $days.
        An order arrives within $days.
        Parcels are delivered in $days.
        """,
        """
        How long does [delivery|shipping] take?
        When will my [order|parcel|package] arrive?
        When does my [parcel|order|package] come?
        How many days until my [order|parcel] is here?
        How fast [do you deliver|is delivery|is the delivery]?
        What is the delivery time?
        How soon will I get my [order|package|parcel]?
        How long until my package [gets here|arrives]?
        How long must I wait for my [order|parcel]?
        When can I expect my [delivery|order|parcel]?
        Delivery time?
        I ordered today, when does it [arrive|come]?
        How quickly will it be delivered?
        Do you know when my [order|parcel] will be delivered?
        How long does it take to deliver an order?
        My [parcel|order] should be here when?
        What is your [usual|normal] delivery time?
        How much time does delivery need?
        How many days does shipping take?
        By when will I have my order?
        What are your delivery times?
        How long will it take for my [things|order] to arrive?
        """,
    ),
    "shipping": _topic(
        """
        Shipping costs $money.
        The delivery fee is $money.
        We charge $money for shipping.
        """,
        """
        How much [is shipping|does shipping cost|is delivery]?
        What does [shipping|delivery] cost?
        What are the shipping costs?
        Is [shipping|delivery] free?
        Do I have to pay for [shipping|delivery]?
        What is the [shipping|delivery] fee?
        How expensive is [shipping|delivery]?
        Shipping costs?
        What do you charge for [shipping|delivery]?
        Do you have free [shipping|delivery]?
        What is the price of [shipping|delivery]?
        How much do you charge for delivery?
        How much do I pay for shipping?
        Are there shipping fees?
        Does delivery cost [anything|extra|money]?
        How high are the shipping costs?
        Is there a fee for [shipping|delivery]?
        What will I pay for postage?
        How much is postage?
        Cost of [shipping|delivery]?
        """,
    ),
    "abroad": _topic(
        """
        We ship to $count countries.
        We deliver abroad to $count countries.
        International shipping covers $count countries.
        """,
        """
        Do you ship [abroad|internationally|overseas|worldwide]?
        Do you deliver to other countries?
        Can you send it abroad?
        Which countries do you ship to?
        Is international [shipping|delivery] possible?
        Can I order from [another|a different] country?
        How many countries do you [ship|deliver] to?
        I live abroad, can I order?
        Do you ship outside the country?
        Do you have international shipping?
        Can you deliver [overseas|worldwide|abroad]?
        Will you ship to a foreign country?
        To which countries do you deliver?
        International orders?
        Is it possible to get it shipped abroad?
        Do you send [parcels|orders] to other countries?
        Can my order go to a different country?
        What countries can you deliver to?
        """,
    ),
    "returns": _topic(
        """
        You can return an item within $days.
        Returns are possible for $days.
        Items can be sent back for $days.
        """,
        """
        How do I return [an item|my order|something]?
        Can I return [this|an item|my order|it]?
        I want to send [it|this|my order] back.
        What is your return policy?
        How long can I return [an item|things|it]?
        Can I send [it|something|the item] back?
        I don't like it, can I return it?
        Return policy?
        How does a return work?
        Until when can I return [it|an item]?
        I [want|need] to return [something|an item|my order].
        Is it possible to send back an order?
        How many days do I have to return it?
        Can I give it back?
        Do you accept returns?
        What are the rules for returns?
        It does not fit, can I send it back?
        Returning an item, how?
        I would like to return what I bought.
        What is the return period?
        How long do I have to send something back?
        Are returns possible?
        """,
    ),
    "refund": _topic(
        """
        A refund takes $days.
        Refunds are paid within $days.
        You get your money back in $days.
        """,
        """
        How long does a refund take?
        When do I get my money back?
        When will I get my refund?
        Where is my refund?
        How do refunds work?
        I want my money back.
        When is the money back on my account?
        How fast are refunds?
        Refund time?
        How soon will you refund me?
        My refund has not arrived.
        When will the refund be paid?
        Do I get my money back?
        Can I get a refund?
        How many days until I am refunded?
        I am waiting for my refund.
        How long until I have my money back?
        Can you give me my money back?
        When do you pay refunds?
        I still have no refund.
        """,
    ),
    "tracking": _topic(
        """
        You can track your order on $page.
        The tracking number is on $page.
        $page shows where your parcel is.
        """,
        """
        Where is my [order|parcel|package]?
        How do I track my [order|parcel|package]?
        Can I track my [order|parcel|package]?
        Where can I see where my parcel is?
        Where do I find the tracking number?
        How can I follow my [order|parcel]?
        What is my tracking number?
        Is there a tracking number?
        Tracking number?
        I want to track my [parcel|order].
        Do you have order tracking?
        How do I know where my package is?
        How can I check [the status of my order|my order status]?
        What is the status of my order?
        Can I see where my order is [now|at the moment]?
        Track [order|parcel|package]?
        Where has my [parcel|package] gone?
        How does tracking work?
        Can you tell me where my package is?
        """,
    ),
    "payment": _topic(
        """
        You can pay by $card.
        We accept payment by $card.
        Payment works by $card only.
        """,
        """
        How can I pay?
        Which payment methods do you [accept|take|have]?
        What payment methods are there?
        Can I pay by [card|credit card|cash|bank transfer]?
        Do you [accept|take] [credit cards|cards|cash]?
        How do I pay for my order?
        What are the payment options?
        Payment methods?
        In which ways can I pay?
        Is it possible to pay by [card|cash]?
        What kinds of payment do you accept?
        How does payment work?
        Can I pay with [a card|my phone|cash]?
        Which cards do you take?
        Tell me how to pay.
        Ways to pay?
        What can I pay with?
        I want to pay, how?
        """,
    ),
    "warranty": _topic(
        """
        Every product has a warranty of $years.
        The guarantee lasts $years.
        We give a warranty of $years.
        """,
        """
        How long is the warranty?
        Do you [give|offer] a [warranty|guarantee]?
        What is the warranty [period|time]?
        Is there a [warranty|guarantee]?
        How long does the [warranty|guarantee] last?
        Do your products have a [warranty|guarantee]?
        Warranty?
        How many years of [warranty|guarantee] do I have?
        What about the [guarantee|warranty]?
        Does it come with a [warranty|guarantee]?
        How many years is the warranty valid?
        Do I have a guarantee?
        Tell me about the warranty.
        When does the [warranty|guarantee] end?
        Is my product still under warranty?
        What [guarantee|warranty] do I get?
        """,
    ),
    "password": _topic(
        """
        You can reset your password on $page.
        A new password is sent from $page.
        To change your password, use $page.
        """,
        """
        I forgot my password.
        How do I reset my password?
        How can I change my password?
        I lost my password.
        Can I get a new password?
        My password does not work.
        Where do I reset my password?
        I need a new password.
        I can't remember my password.
        Reset password?
        What if I forgot my password?
        Where can I change my password?
        Password forgotten, what now?
        I can not log in, wrong password.
        How do I get a new password?
        How do I set a new password?
        My password is wrong.
        Help, I do not know my password any more.
        """,
    ),
    "hours": _topic(
        """
        Support is open from $hours.
        We are open from $hours.
        Our opening hours are $hours.
        """,
        """
        When are you open?
        What are your [opening|office|business] hours?
        When can I call you?
        When does [support|the support|the shop] open?
        Until when are you open?
        At what time do you [open|close]?
        When do you close?
        What time is support open?
        Opening hours?
        Are you open [now|today|on Sunday]?
        How long are you open [today|]?
        From when to when are you open?
        What hours do you work?
        Is your shop open today?
        When is somebody there?
        What time do you [open|close]?
        Tell me your [opening hours|hours].
        Which hours is support [there|open]?
        """,
    ),
    "contact": _topic(
        """
        You can reach us by mail at $mail.
        Write to us at $mail.
        Our mail address is $mail.
        """,
        """
        How can I contact you?
        How do I reach [you|support]?
        What is your [mail|email] address?
        Can I talk to a [human|person]?
        Where can I write to?
        How do I contact support?
        I want to [talk to|speak with] [someone|a person|a human].
        What is your email?
        How do I get in touch?
        Contact?
        Can I send you [a mail|an email]?
        Is there an email address?
        How can I get in touch with you?
        How can I reach a human?
        How can I write to you?
        I need to speak to somebody.
        Do you have an email address?
        Where do I send my [mail|email]?
        Contact details please.
        """,
    ),
    "cancel": _topic(
        """
        You can cancel an order within $days.
        Cancelling is possible for $days.
        Orders can be cancelled for $days.
        """,
        """
        How do I cancel my order?
        Can I cancel [my order|an order]?
        I want to cancel [my order|it].
        Is it possible to cancel [an order|my order]?
        I ordered by mistake, can I cancel?
        How can I cancel?
        Until when can I cancel?
        Cancel my order please.
        I need to cancel.
        How long can I cancel [an order|my order]?
        Cancel order?
        What if I want to cancel?
        Can an order be cancelled?
        Please cancel my order.
        I changed my mind, cancel my order.
        How does cancelling work?
        I do not want my order any more, how do I cancel it?
        Are cancellations possible?
        """,
    ),
    "address": _topic(
        """
        Our shop is at $street.
        You find our store at $street.
        The shop address is $street.
        """,
        """
        Where is your [shop|store]?
        What is your address?
        Where are you located?
        Do you have a [shop|store]?
        Where can I visit you?
        What is the address of your [shop|store]?
        How do I find your [shop|store]?
        In which street is your [shop|store]?
        Where can I find your [shop|store]?
        Can I visit your [shop|store]?
        Shop address?
        On which street are you?
        Is there a [shop|store] I can visit?
        Where exactly is the [shop|store]?
        I want to come to your [shop|store], where is it?
        What street are you on?
        Where do I find you?
        """,
    ),
    "discount": _topic(
        """
        Students get a discount of $percent.
        There is a student discount of $percent.
        The discount for students is $percent.
        """,
        """
        Is there a student discount?
        Do students pay less?
        Do you have discounts for students?
        I am a student, is it cheaper?
        How much discount do students get?
        Do you [offer|have|give] a student discount?
        Is there a discount?
        Do I get a discount?
        Student discount?
        What is the student discount?
        Can students get a discount?
        How high is the discount for students?
        Do you have a discount [for me|for students|]?
        Is it cheaper for students?
        As a student, do I get a discount?
        Can I have a discount?
        Any discounts?
        """,
    ),
    "gift": _topic(
        """
        Gift cards are valid for $years.
        A gift card lasts $years.
        You can use a gift card for $years.
        """,
        """
        How long is a gift card valid?
        Do gift cards expire?
        When does my gift card expire?
        How long can I use [my|a] gift card?
        Is my gift card still valid?
        Can I still use [my|an old] gift card?
        I have an old gift card, does it work?
        Gift card?
        What about gift cards?
        How many years does a gift card last?
        Do you have gift cards?
        Until when is my gift card valid?
        How long do gift cards last?
        Does my gift card end?
        For how long is a gift card good?
        Tell me about gift cards.
        """,
    ),
    "invoice": _topic(
        """
        You find your invoice on $page.
        Invoices are on $page.
        The invoice is sent by $name.
        """,
        """
        Where is my [invoice|bill]?
        Where do I find my [invoice|bill]?
        How do I get [an invoice|a bill]?
        Can I get an invoice?
        I need [an invoice|my invoice|a bill].
        I need my [invoice|bill] for taxes.
        Please send me [an|the|my] invoice.
        Invoice?
        Can you send me the [invoice|bill]?
        Where can I download my [invoice|bill]?
        I did not get an invoice.
        How can I see my invoice?
        Do I get an invoice?
        Who sends the invoice?
        My invoice is missing.
        Is there an invoice for my order?
        """,
    ),
    "broken": _topic(
        """
        Damaged items are replaced within $days.
        Send a photo of the broken item to $mail.
        We replace broken items in $days.
        """,
        """
        My [item|order|parcel|lamp] is [broken|damaged].
        What if my item is broken?
        It arrived [broken|damaged].
        My order came [damaged|broken], what now?
        I got a [broken|damaged] item.
        The item is damaged.
        What do I do with a [broken|damaged] product?
        It [does not work|is broken|broke].
        I received a broken product.
        Broken item?
        Something in my parcel is broken.
        Do you replace broken [items|products|things]?
        My product is defective.
        The thing I bought is broken.
        The product has a crack.
        What happens if it is damaged?
        My [lamp|radio|chair] arrived [broken|damaged].
        """,
    ),
    "delete": _topic(
        """
        You can delete your account on $page.
        Accounts are deleted within $days.
        To close your account, use $page.
        """,
        """
        How do I [delete|close|remove] my account?
        I want to [delete|close] my account.
        Can I [delete|remove|close] my account?
        Please [delete|close|remove] my account.
        Where can I delete my account?
        Is it possible to [delete|close] my account?
        How can I remove my account?
        I do not need my account any more.
        Delete account?
        I no longer want an account.
        Can you delete my [account|data]?
        Where do I close my account?
        What is the way to delete my account?
        How to delete an account?
        I want you to delete my data.
        Get rid of my account.
        """,
    ),
}
