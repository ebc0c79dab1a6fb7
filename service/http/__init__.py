"""HTTP: routers, forms and errors; a route calls one operation."""
