"""Serves models over HTTP: OpenAI's API, and a page to look at them."""
