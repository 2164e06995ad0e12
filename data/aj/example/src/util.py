port = 5432
import os
