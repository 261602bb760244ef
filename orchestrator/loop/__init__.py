"""The agent loop without its effects: events, what they change, what comes next. All of it pure."""
