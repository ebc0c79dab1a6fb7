-- How many crops have a prepared vector. Argument: gallery.
local gallery = find_gallery(argument(1))
return gallery and redis.call('ZCARD', gallery.at .. 'staged') or 0
