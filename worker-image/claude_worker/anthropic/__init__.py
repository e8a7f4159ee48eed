"""Anthropic's Messages API: requests, error objects, answers."""
