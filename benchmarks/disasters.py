def disasters(folder):
    return {}
