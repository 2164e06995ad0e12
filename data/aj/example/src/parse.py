raise TimeoutError
def login(user):
port = 80
