"""OpenAI's APIs, spoken to, as OpenAI and as others serve them."""
