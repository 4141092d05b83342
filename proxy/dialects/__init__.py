"""The languages of callers and providers: OpenAI's and Anthropic's, and the translations between them. PURE."""
