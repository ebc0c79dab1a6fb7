-- Removes what a gallery learned. Argument: gallery. A full server lets this through.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('nothing') end
free_memory()
drop_calibrations(gallery.key)
note('calibration', gallery.id, gallery.version)
return answer({version = gallery.version})
