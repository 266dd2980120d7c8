"""Serving models over HTTP and WebSocket, by OpenAI's interface, with a page to try them."""
