-- Publishes a calibration where the published version is the expected one. Arguments: gallery,
-- subject, expected version (0 for none), the calibration. A published one is kept as version:body.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('nothing') end
local published, subject = gallery.key .. ':published', argument(2)
local version = string.match(redis.call('HGET', published, subject) or '0:', '^%d+') or '0'
if version ~= argument(3) then return refuse('version', {version = version}) end
redis.call('HSET', published, subject, text(version + 1) .. ':' .. argument(4))
note('calibration', gallery.id, gallery.version)
return answer({version = version + 1})
