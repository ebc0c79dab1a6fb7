-- The record's name, the newest change's number and up to ARGV[2] changes after number ARGV[1], of
-- one moment.
return {
  redis.call('GET', 'gmn:epoch'),
  redis.call('GET', 'gmn:seq') or '0',
  redis.call('XRANGE', 'gmn:changes', '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
}
