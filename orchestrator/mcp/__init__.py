"""MCP servers: connections that are kept, and their tools as tools of agents."""
