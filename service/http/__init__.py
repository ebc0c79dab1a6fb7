"""HTTP: routers, schemas, errors; a router calls one operation."""
