-- Reads changes. Arguments: after which, how many. Answers the record's name, the newest change's
-- number and the changes, of one moment.
local after = argument(1)
return {
  redis.call('GET', 'gmn:epoch'),
  redis.call('GET', 'gmn:seq') or '0',
  redis.call('XRANGE', 'gmn:changes', '(' .. after .. '-0', '+', 'COUNT', argument(2))
}
