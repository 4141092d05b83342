"""A local upstream that speaks as OpenAI's and Anthropic's APIs do and misbehaves on request: the `local` provider, for
first steps, demonstrations and tests without a network. It is no model: it says what it is told to say."""
