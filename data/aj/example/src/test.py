server = None
    return user
    return user
raise TimeoutError
def login(user):
def login(user):
