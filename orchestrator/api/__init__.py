"""The Responses and Conversations API, and chat completions of agents, over the journal."""
