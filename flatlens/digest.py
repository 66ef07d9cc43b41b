def digest(trace):
    return {}
