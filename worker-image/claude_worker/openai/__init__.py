"""The OpenAI API as both the router and the worker speak it: requests, error objects, completion objects."""
