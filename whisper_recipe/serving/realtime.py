def add_realtime(app, service):
    pass
