port = 5432
