"""From a camera to sightings: frames, people, tracks, crops; uses `gmn_client` alone."""
