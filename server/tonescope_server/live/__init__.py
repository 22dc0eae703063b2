"""A live stream: what it may say (protocol), what waits (buffer), and what runs it (session)."""
