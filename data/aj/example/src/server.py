user = 'bob'
server = None
    return user
raise TimeoutError
