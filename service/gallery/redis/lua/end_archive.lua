-- Arguments: gallery, generation, the archive's name. A full server lets this through.
free_memory()
redis.call('ZREM', at_generation(argument(1), argument(2)) .. 'archives', argument(3))
return answer({})
