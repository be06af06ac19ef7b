"""The pools of a program over HTTP: an API, a dashboard, and a client."""
