"""The HTTP routes: what they take, call and answer, and the app that joins them (app.create_app)."""
