"""The translations between OpenAI's chat format and those of other providers: pure, no I/O."""
