-- Sets or drops fields of a gallery. Arguments: gallery, kind of change; then names and values, ''
-- where there is none.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
for number = 3, #ARGV - OWN, 2 do
  redis.call('HSET', gallery.key, argument(number), argument(number + 1))
end
seal_gallery(gallery.id)
note(argument(2), gallery.id, gallery.version)
return answer({version = gallery.version})
