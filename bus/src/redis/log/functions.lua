#!lua name=clarion

-- The logs of Clarion's namespaces. Of a partition, named `{prefix:namespace:number}` so that all of it lies in one slot:
--
--   P:meta        hash: epoch, last (offset), run (the server that wrote it), leap (the offsets between which nothing was given)
--   P:channels    sorted set: channel -> its last offset, as long as that is not older than the log's age
--   P:log:<c>     list: the channel's last messages, as they were published
--   P:id:<c>:<i>  a message's id, within its window: "offset previous"
--
-- Offsets are times in microseconds: they grow also when a fail-over lost the last ones. Written by Clarion's nodes; the version
-- below is compared with theirs.

local VERSION = 1
local REPEAT_WINDOW_MS = 120000
-- How far offsets leap when another server goes on: more than a replica is ever behind.
local LEAP = 60000000

-- This server's run id. At FUNCTION LOAD nothing can be called yet, so it is asked for once it is needed.
local run_id

local function this_run()
  if not run_id then
    run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '?'
  end
  return run_id
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function text(number)
  return string.format('%.0f', number)
end

-- A partition's epoch and last offset; both are made when there are none. After a change of server offsets leap, since the
-- last ones may have been lost, and clients may have seen them.
local function open(p)
  local meta = redis.call('HMGET', p .. ':meta', 'epoch', 'last', 'run')
  local epoch, last, run = meta[1], meta[2], meta[3]
  if not epoch then
    epoch = string.sub(redis.sha1hex(this_run() .. text(now()) .. p .. tostring({})), 1, 11)
    redis.call('HSET', p .. ':meta', 'epoch', epoch, 'last', '0', 'run', this_run())
    return epoch, 0
  end
  last = tonumber(last)
  if run ~= this_run() then
    local leapt = math.max(last + LEAP, now())
    redis.call('HSET', p .. ':meta', 'last', text(leapt), 'run', this_run(), 'leap', text(last) .. ' ' .. text(leapt))
    last = leapt
  end
  return epoch, last
end

-- The members of an envelope and the payload behind it. What is no envelope is all payload.
local function unseal(payload)
  if string.byte(payload, 1) ~= 0 then return {}, payload end
  local line = string.find(payload, '\n', 1, true)
  if not line then return {}, payload end
  local json = string.sub(payload, 2, line - 1)
  local id = string.match(json, '^{"id":"([%w-]+)"}$')
  if id then return { id = id }, string.sub(payload, line + 1) end
  local good, members = pcall(cjson.decode, json)
  if not good or type(members) ~= 'table' or string.sub(json, 1, 1) ~= '{' then return {}, payload end
  return members, string.sub(payload, line + 1)
end

local function seal(id, offset, epoch, previous, time, tags, payload)
  local parts = { '\0{' }
  if id then parts[#parts + 1] = '"id":' .. cjson.encode(id) .. ',' end
  parts[#parts + 1] = '"offset":' .. text(offset) .. ',"epoch":"' .. epoch .. '","previous":' .. text(previous)
  parts[#parts + 1] = ',"time":' .. text(time)
  if type(tags) == 'table' and next(tags) then parts[#parts + 1] = ',"tags":' .. cjson.encode(tags) end
  parts[#parts + 1] = '}\n'
  parts[#parts + 1] = payload
  return table.concat(parts)
end

-- Stores a message, gives it a number, and publishes it: epoch, offset, predecessor, and whether its id was known.
local function append(p, subject, channel, sealed, id, size, age_ms)
  local members, payload = unseal(sealed)
  if type(members.id) == 'string' then id = members.id end
  local epoch, last = open(p)
  local known = id and p .. ':id:' .. channel .. ':' .. id
  if known then
    local first = redis.call('GET', known)
    if first then
      local offset, previous = string.match(first, '(%d+) (%d+)')
      return { epoch, offset, previous, 1 }
    end
  end
  local time = now()
  local offset = math.max(last + 1, time)
  local oldest = time - age_ms * 1000
  redis.call('ZREMRANGEBYSCORE', p .. ':channels', '-inf', text(oldest))
  local previous = tonumber(redis.call('ZSCORE', p .. ':channels', channel) or 0)
  local published = tonumber(members.time) or math.floor(time / 1000)
  local message = seal(id, offset, epoch, previous, published, members.tags, payload)
  local log = p .. ':log:' .. channel
  redis.call('RPUSH', log, message)
  redis.call('LTRIM', log, -size, -1)
  redis.call('PEXPIRE', log, age_ms)
  redis.call('ZADD', p .. ':channels', text(offset), channel)
  redis.call('PEXPIRE', p .. ':channels', age_ms)
  redis.call('HSET', p .. ':meta', 'last', text(offset))
  redis.call('PUBLISH', subject, message)
  -- Last: were it first and something failed in between, the retry would be taken for a repeat of what is not there.
  if known then
    redis.call('SET', known, text(offset) .. ' ' .. text(previous), 'PX', REPEAT_WINDOW_MS)
  end
  return { epoch, text(offset), text(previous), 0 }
end

-- For nodes. KEYS: the partition. ARGV: size, age in ms, then for each message subject, channel, payload.
redis.register_function('clarion_append', function(keys, args)
  local results = {}
  for i = 3, #args, 3 do
    results[#results + 1] =
      append(keys[1], args[i], args[i + 1], args[i + 2], nil, tonumber(args[1]), tonumber(args[2]))
  end
  return results
end)

-- For the nodes that hear plain PUBLISHes, each of which has a name that all of them agree on: the marker before it and how
-- many came since. KEYS: the partition. ARGV: size, age in ms, the name they go on from, the marker that follows or '', then
-- for each message subject, channel, payload. Nothing is done unless all before was numbered; the name it has come to.
redis.register_function('clarion_number', function(keys, args)
  local p, from, marker = keys[1], args[3], args[4]
  local at = redis.call('HGET', p .. ':meta', 'raw') or ''
  if at ~= from then return at end
  local base, count = string.match(at, '^(%S+) (%d+)$')
  for i = 5, #args, 3 do
    append(p, args[i], args[i + 1], args[i + 2], nil, tonumber(args[1]), tonumber(args[2]))
    count = count + 1
  end
  if marker ~= '' then base, count = marker, 0 end
  at = base .. ' ' .. text(count)
  open(p)
  redis.call('HSET', p .. ':meta', 'raw', at)
  return at
end)

-- FNV-1a, 32 bit. A product would not fit a double, so it is made of halves.
local function fnv1a(name)
  local hash = 2166136261
  for i = 1, #name do
    hash = bit.bxor(hash, string.byte(name, i)) % 4294967296
    hash = (hash * 403 + (hash % 256) * 16777216) % 4294967296
  end
  return hash
end

-- The partition of a channel and its policy, as the nodes wrote them down.
local function policy_of(prefix, channel)
  local name = channel
  while name do
    local policy = redis.call('HGET', '_clarion:' .. prefix .. ':logs', name)
    if policy then
      local size, age_ms, partitions = string.match(policy, '^(%d+) (%d+) (%d+)$')
      if not size then return nil end
      local number = fnv1a(channel) % tonumber(partitions)
      return '{' .. prefix .. ':' .. name .. ':' .. text(number) .. '}', tonumber(size), tonumber(age_ms)
    end
    name = string.match(name, '^(.*)/[^/]*$')
  end
end

-- For backends: FCALL clarion_publish 1 clarion:<channel> <payload> [<id>]. The offset of the message; of the first one, if the
-- id was seen before. Not on a Cluster, where the log lies in another slot than the channel's name.
redis.register_function('clarion_publish', function(keys, args)
  local prefix, channel = string.match(keys[1], '^([%w_-]+):(.+)$')
  if not prefix or not args[1] then
    return redis.error_reply('ERR use FCALL clarion_publish 1 <prefix>:<channel> <payload> [<id>]')
  end
  local id = args[2]
  if id and (#id < 1 or #id > 128 or string.find(id, '[^!-~]')) then
    return redis.error_reply('ERR an id is 1 to 128 bytes of printable ASCII without spaces')
  end
  local p, size, age_ms = policy_of(prefix, channel)
  if not p then
    return redis.error_reply('ERR ' .. channel .. ' is in no logged namespace that a node has told of; use PUBLISH')
  end
  return append(p, keys[1], channel, args[1], id, size, age_ms)[2]
end)

-- KEYS: the partition. Its epoch, last offset, and the leap as it is written.
redis.register_function('clarion_top', function(keys)
  local epoch, last = open(keys[1])
  return { epoch, text(last), redis.call('HGET', keys[1] .. ':meta', 'leap') or '' }
end)

local function offset_of(message)
  return tonumber(string.match(message, '"offset":(%d+)'))
end

-- The place of the first message behind an offset; lists are in the order of offsets.
local function first_behind(log, length, after)
  local low, high = 0, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    if offset_of(redis.call('LINDEX', log, middle)) > after then high = middle else low = middle + 1 end
  end
  return low
end

-- KEYS: the partition. ARGV: after, up to, 'first' or 'last', messages and bytes of each channel, age in ms, then channels. For
-- each channel: 1 if something behind `after` is kept no more, the last offset to which it was read, and the messages.
redis.register_function{ function_name = 'clarion_read', flags = { 'no-writes' }, callback = function(keys, args)
  local p, after, up_to = keys[1], tonumber(args[1]), tonumber(args[2])
  local from_end, most, most_bytes = args[3] == 'last', tonumber(args[4]), tonumber(args[5])
  -- The newest lie in the first channels that are named; no call brings more than this.
  local total = 1000
  local oldest = now() - tonumber(args[6]) * 1000
  local results = {}
  for i = 7, #args do
    local log = p .. ':log:' .. args[i]
    local length = redis.call('LLEN', log)
    local live = first_behind(log, length, oldest)
    local first = math.max(first_behind(log, length, after), live)
    local last = first_behind(log, length, up_to) - 1
    local lost = 0
    if length == 0 then
      if after > 0 and after < oldest then lost = 1 end
    elseif first == live then
      -- Nothing here is older: was there something between `after` and the first?
      local previous = tonumber(string.match(redis.call('LINDEX', log, 0), '"previous":(%d+)'))
      if live > 0 then previous = offset_of(redis.call('LINDEX', log, live - 1)) end
      if previous > after then lost = 1 end
    end
    if from_end then first = math.max(first, last - math.min(most, total) + 1) end
    local found, reached, bytes = {}, up_to, most_bytes
    for at = first, last do
      local message = redis.call('LINDEX', log, at)
      -- The first is given whatever its size, or nobody would come past it.
      if #found > 0 and (#found == most or bytes < #message) then
        reached = offset_of(found[#found])
        break
      end
      found[#found + 1] = message
      bytes = bytes - #message
    end
    total = total - #found
    results[#results + 1] = { lost, text(reached), found }
  end
  return results
end }

-- KEYS: a user's record. ARGV: the epoch, what is read up to, how many more are kept, and those. All that is marked.
redis.register_function('clarion_mark', function(keys, args)
  local known = redis.call('HMGET', keys[1], 'epoch', 'up_to', 'also')
  local up_to, also = tonumber(args[2]), {}
  for i = 4, #args do also[tonumber(args[i])] = true end
  if known[1] == args[1] then
    up_to = math.max(up_to, tonumber(known[2]))
    for offset in string.gmatch(known[3], '%d+') do also[tonumber(offset)] = true end
  end
  local left = {}
  for offset in pairs(also) do
    if offset > up_to then left[#left + 1] = offset end
  end
  table.sort(left)
  while #left > tonumber(args[3]) do up_to = table.remove(left, 1) end
  for i, offset in ipairs(left) do left[i] = text(offset) end
  redis.call('HSET', keys[1], 'epoch', args[1], 'up_to', text(up_to), 'also', table.concat(left, ' '))
  return { args[1], text(up_to), table.concat(left, ' ') }
end)

redis.register_function{ function_name = 'clarion_version', flags = { 'no-writes' }, callback = function()
  return VERSION
end }
