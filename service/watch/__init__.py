"""Watch lists: galleries whose people raise an alert when a camera shows them."""
