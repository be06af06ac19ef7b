"""The scripts of the Redis store that change nothing: who holds what, what has ended, pages, numbers.

Rule: what goes out is one JSON text, put together from texts that are JSON already.
"""

from __future__ import annotations

from typing import Final

__all__ = ["QUESTIONS"]

_OWNED = r"""
local ids, out = cmd('ZRANGE', B .. 'own:' .. ME, 0, -1), {}
fetch(ids)
for _, id in ipairs(ids) do
  local j = load(id)
  if j then out[#out + 1] = id; out[#out + 1] = j.f end
end
return out
"""

_FINISHED = r"""
-- 4: ids
local out, ids = {}, cjson.decode(ARGV[4])
fetch(ids)
for _, id in ipairs(ids) do
  local j = load(id)
  if j and ENDED[j.s] then
    out[#out + 1] = '[' .. text(id) .. ',' .. text(j.s) .. ',' .. text(j.S) .. ',' .. text(j.E) .. ',' .. text(j.R)
      .. ',' .. j.a .. ',' .. at((j.w or j.z) - j.t) .. ',' .. at(j.v or 0) .. ',' .. at(j.z) .. ']'
  end
end
return '[' .. table.concat(out, ',') .. ']'
"""

_FIND = r"""
-- 4: ids
local out, ids = {}, cjson.decode(ARGV[4])
fetch(ids)
for _, id in ipairs(ids) do out[#out + 1] = row(id) end
return '[' .. table.concat(out, ',') .. ']'
"""

_PAGE = r"""
-- 4: statuses, 5: name, 6: group (each with a sign before it, or empty), 7: how many, 8: cursor. A cursor is a score
-- and an id: rows of other stores may have one position.
local statuses, name, group, most = cjson.decode(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7])
local score, last_id = ARGV[8]:match('^(%-?%d+):(.*)$')
local heads, sets = {}, {}
for _, s in ipairs(statuses) do
  if s == 'running' then
    for _, id in ipairs(cmd('ZRANGE', B .. 'leases', 0, -1)) do sets[#sets + 1] = B .. 'own:' .. id end
  else
    sets[#sets + 1] = S .. s
  end
end
for _, key in ipairs(sets) do
  local start = 0
  if score then
    start = cmd('ZCOUNT', key, '(' .. score, '+inf')
    local same = cmd('ZCOUNT', key, score, score)
    if same > 0 then
      for _, id in ipairs(cmd('ZREVRANGE', key, start, start + same - 1)) do
        if id >= last_id then start = start + 1 end
      end
    end
  end
  local rows = cmd('ZREVRANGE', key, start, start + 99, 'WITHSCORES')
  if #rows > 0 then heads[#heads + 1] = {key = key, start = start, rows = rows, i = 1} end
end
local out, cursor, steps = {}, false, 2000
while #out < most and steps > 0 do
  local best
  for _, h in ipairs(heads) do
    if h.i > #h.rows and #h.rows == 200 then
      h.start = h.start + 100
      h.rows, h.i = cmd('ZREVRANGE', h.key, h.start, h.start + 99, 'WITHSCORES'), 1
    end
    h.id, h.score = h.rows[h.i], tonumber(h.rows[h.i + 1])
    if h.id and (not best or h.score > best.score or (h.score == best.score and h.id > best.id)) then best = h end
  end
  if not best then cursor = false; break end
  best.i = best.i + 2
  steps = steps - 1
  cursor = fmt('%.0f', best.score) .. ':' .. best.id
  local fit = true
  if name ~= '' or group ~= '' then
    local j = load(best.id)
    fit = j and (name == '' or '=' .. j.n == name) and (group == '' or (j.g and '=' .. j.g == group))
  end
  if fit then out[#out + 1] = row(best.id) end
end
if cursor then
  local any = false
  for _, h in ipairs(heads) do
    if h.rows[h.i] or (#h.rows == 200 and cmd('ZREVRANGE', h.key, h.start + 100, h.start + 100)[1]) then any = true end
  end
  if not any then cursor = false end
end
return '[[' .. table.concat(out, ',') .. '],' .. text(cursor) .. ']'
"""

_STATISTICS = r"""
local counts, members, running = {}, {}, 0
for _, id in ipairs(cmd('ZRANGE', B .. 'leases', 0, -1)) do running = running + cmd('ZCARD', B .. 'own:' .. id) end
counts[1] = '"running":' .. running
for _, s in ipairs({'scheduled', 'queued', 'limited', 'parked', 'moving', 'succeeded', 'failed', 'timed_out',
  'cancelled', 'dead'}) do counts[#counts + 1] = '"' .. s .. '":' .. cmd('ZCARD', S .. s) end
local first, oldest = cmd('ZRANGE', S .. 'queued', 0, 0)[1], 'null'
if first then
  local j = load(first)
  if j then oldest = at(max(0, NOW - j.t)) end
end
local all = cmd('HGETALL', B .. 'members')
for i = 1, #all, 2 do
  members[#members + 1] = '[' .. text(all[i]) .. ',' .. all[i + 1] .. ','
    .. (cmd('ZSCORE', B .. 'leases', all[i]) or 0) .. ',' .. cmd('ZCARD', B .. 'own:' .. all[i]) .. ']'
end
return '[{' .. table.concat(counts, ',') .. '},' .. oldest .. ',[' .. table.concat(members, ',') .. '],'
  .. (cmd('HGET', B .. 'numbers', 'rescued') or 0) .. ',' .. cmd('EXISTS', B .. 'paused') .. ']'
"""

_SCHEDULES = r"""
local out, all = {}, cmd('HGETALL', B .. 'ticks')
for i = 1, #all, 2 do out[#out + 1] = '[' .. text(all[i]) .. ',' .. all[i + 1] .. ']' end
return '[' .. table.concat(out, ',') .. ']'
"""

QUESTIONS: Final[dict[str, str]] = {
    "owned": _OWNED,
    "finished": _FINISHED,
    "find": _FIND,
    "page": _PAGE,
    "statistics": _STATISTICS,
    "schedules": _SCHEDULES,
}
"""By verb: the text of its script, without what all begin with."""
