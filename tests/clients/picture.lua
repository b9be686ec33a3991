-- wrk posts a picture, and says how many answers were not what they should be.
--
--     wrk -s picture.lua http://ADDRESS/v1/encode -- PICTURE BYTES
--
-- Every answer must be 200 and so many bytes of a safetensors file.

local bytes

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    wrk.method = "POST"
    wrk.body = file:read("*a")
    file:close()
    bytes = tonumber(arguments[2])
    right, wrong = 0, 0
end

function response(status, _, body)
    if status == 200 and #body == bytes then
        right = right + 1
    else
        wrong = wrong + 1
    end
end

function done(summary)
    local right, wrong = 0, 0
    for _, thread in ipairs(threads) do
        right, wrong = right + thread:get("right"), wrong + thread:get("wrong")
    end
    local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
    print(string.format("wrk: %d answers of the right size, %d others, %d errors", right, wrong, errors))
end
