"""Amazon Bedrock's Converse API, spoken to."""
