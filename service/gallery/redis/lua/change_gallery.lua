-- Changes settings of a gallery, and answers all of them. Arguments: gallery; then names and values,
-- '' where there is none.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
for number = 2, #ARGV - OWN, 2 do
  redis.call('HSET', gallery.key, argument(number), argument(number + 1))
end
seal_gallery(gallery.id)
note('gallery_changed', gallery.id, gallery.version)
return answer({settings = redis.call('HMGET', gallery.key, unpack(SETTINGS))})
