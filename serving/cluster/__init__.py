"""Ray, replicas and their engines, the directory that knows them: how they begin, live and end."""
