-- Begins another generation beside the one that is searched; nothing shows it until it is switched
-- to. Arguments: gallery, for how long it is kept unfinished, milliseconds.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local generation = text(redis.call('HINCRBY', gallery.key, 'numbers', 1))
local side = text(redis.call('HINCRBY', gallery.key, 'numbers', 1))
local until_ms = text(now_ms() + argument(2))
redis.call('HSET', 'gmn:chores', chore(gallery.id, generation, 'generation'), until_ms)
return answer({
  generation = generation, side = side, sequence = redis.call('GET', 'gmn:seq') or '0'
})
