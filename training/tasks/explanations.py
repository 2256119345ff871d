"""What the model can explain: sentences from the general to the particular, so that any number of them reads well."""


def _sentences(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


EXPLANATIONS = {
    subject: _sentences(text)
    for subject, text in {
        "caching": """
            Caching means keeping a result so that it need not be made again.
            The first request does the work and stores the answer.
            Later requests for the same thing read the stored answer.
            This saves time and money.
            The hard part is to know when a stored answer is out of date.""",
        "a queue": """
            A queue is a line in which things wait for their turn.
            What comes first is served first.
            New things are added at the end.
            A queue helps when work comes faster than it can be done.
            A queue must have a limit, or the wait becomes too long.""",
        "a load balancer": """
            A load balancer shares requests between several servers.
            It sends each request to a server that has room.
            When one server fails, the others take its work.
            Users see only one address.
            It checks often whether each server is healthy.""",
        "batching": """
            Batching means doing several pieces of work at once.
            The computer loads what it needs one time and uses it for all of them.
            This makes each piece cheaper.
            A larger batch is more efficient, but each piece may wait longer.
            A good server chooses the batch by how much work is waiting.""",
        "a token": """
            A token is a small piece of text.
            It can be a word, a part of a word, or a single sign.
            A language model reads and writes tokens, not letters.
            Long texts have many tokens and cost more.
            The list of all tokens is called the vocabulary.""",
        "a language model": """
            A language model is a program that predicts the next piece of text.
            It learns from many examples.
            To answer, it adds one token after another.
            Large models know more, small models are faster.
            A language model can be wrong, so check what matters.""",
        "a KV cache": """
            A KV cache stores what a language model has computed for earlier tokens.
            With it, each new token needs only a little work.
            The cache grows with the length of the text.
            It uses much memory, so servers manage it in blocks.
            Texts with the same beginning can share a part of it.""",
        "speculative decoding": """
            Speculative decoding makes a language model faster.
            A small model guesses the next few tokens.
            The large model checks all guesses in one step.
            Good guesses are kept and a wrong one is replaced.
            The result is the same as without guessing.""",
        "latency": """
            Latency is the time from a question to its answer.
            Low latency makes a program feel fast.
            Waiting in a queue adds to it.
            It is often told as the time that most requests stay under.
            Watch the slowest requests and not only the average.""",
        "throughput": """
            Throughput is how much work is done in a given time.
            It is told in requests or tokens per second.
            A high throughput makes each request cheaper.
            It often grows with the batch.
            Too much load makes the waiting time grow.""",
        "a rate limit": """
            A rate limit says how many requests a user may send in a given time.
            It protects a service from too much work.
            When the limit is reached, the service says no for a while.
            The answer tells when to try again.
            Fair limits keep the service good for everyone.""",
        "an API": """
            An API is a way for programs to talk to each other.
            It says which requests are allowed and how the answers look.
            One program asks and the other one answers.
            A stable API lets both sides change inside.
            Good errors are a part of a good API.""",
        "a database": """
            A database stores data so that it can be found again.
            Programs ask it questions and get the matching entries.
            An index makes the search fast.
            A good database does not lose data when the power fails.
            Backups protect against mistakes.""",
        "a server": """
            A server is a computer that answers requests from others.
            It waits for a request, does the work, and sends the answer.
            Many people can use one server at the same time.
            Servers often stand in large halls with good cooling.
            When a server is too busy, requests must wait.""",
        "a computer": """
            A computer is a machine that follows instructions.
            It takes data in, works on it, and gives a result.
            The processor does the work and the memory keeps the data.
            Programs tell the computer what to do.
            Computers are fast, but they do only what they are told.""",
        "the internet": """
            The internet is a network of computers all over the world.
            It sends data in small packets.
            Each packet finds its way through many machines.
            Pages, mails, and films all travel in this way.
            No single person owns the internet.""",
        "rain": """
            Rain is water that falls from clouds.
            The sun warms the sea and water rises into the air.
            High up it is cold, and small drops form.
            When the drops are heavy enough, they fall.
            Plants, animals, and people need rain.""",
        "the moon": """
            The moon is a ball of rock that goes around the earth.
            It takes about one month for one round.
            It does not shine by itself but reflects the light of the sun.
            Its pull makes the tides of the sea.
            People first walked on it in 1969.""",
        "the sun": """
            The sun is a star in the middle of our solar system.
            It gives us light and warmth.
            The earth goes around it once in a year.
            It is much larger than the earth.
            Never look into the sun without protection.""",
        "sleep": """
            Sleep is the rest that the body and the brain need.
            During sleep the body repairs itself.
            The brain sorts what it has learned.
            Most adults need seven to eight hours.
            A dark and quiet room helps.""",
        "bread": """
            Bread is a food made of flour, water, salt, and yeast.
            The yeast makes bubbles, and the dough rises.
            Then the dough is baked in a hot oven.
            The crust becomes brown and hard.
            There are many kinds of bread in the world.""",
        "a bicycle": """
            A bicycle is a vehicle with two wheels.
            The rider turns the pedals with the feet.
            A chain moves the back wheel.
            The brakes make it slow down.
            Riding a bicycle is healthy and makes no smoke.""",
        "a tree": """
            A tree is a tall plant with a trunk of wood.
            Its roots take water from the soil.
            Its leaves make food from light and air.
            Trees give shade, fruit, and wood.
            Some trees live for a thousand years.""",
        "a bee": """
            A bee is a small insect that flies from flower to flower.
            It collects nectar and makes honey from it.
            On its way it carries pollen, so plants can grow seeds.
            Bees live together in a hive with one queen.
            Without bees there would be less fruit.""",
        "gravity": """
            Gravity is the force that pulls things together.
            It makes an apple fall to the ground.
            It keeps the moon close to the earth.
            Heavy bodies pull more than light ones.
            On the moon gravity is weaker than here.""",
        "electricity": """
            Electricity is the flow of tiny charges through a wire.
            It makes lamps shine and machines run.
            It comes from power plants, wind, and the sun.
            A battery stores it for later.
            Be careful, because electricity can be dangerous.""",
        "money": """
            Money is what people use to pay for things.
            Before money, people had to trade one thing for another.
            Coins and notes are easy to carry and to count.
            Today most money is only a number in a bank.
            It works because everyone accepts it.""",
        "a volcano": """
            A volcano is a mountain with an opening to the hot inside of the earth.
            Sometimes hot rock and ash come out of it.
            The hot rock is called lava.
            When it cools, it becomes hard stone.
            The soil near a volcano is often good for plants.""",
    }.items()
}
