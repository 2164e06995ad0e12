def login(user):
import os
user = 'alice'
    return user
import os
server = None
