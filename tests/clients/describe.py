"""The OpenAPI document of a running server: it is one, and what the server says is what it describes.

    describe.py ADDRESS PICTURE
"""

import json
import sys
import urllib.error
import urllib.request

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry
from referencing.jsonschema import DRAFT202012

address, picture = sys.argv[1:]


def ask(path, data=None, headers=None):
    request = urllib.request.Request(f"http://{address}{path}", data, headers or {})
    try:
        response = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return response.status, response.headers.get_content_type(), response.read()


api = json.loads(ask("/openapi.json")[2])
validate(api)
registry = Registry().with_resource("openapi.json", DRAFT202012.create_resource(api))


def resolve(node):
    return registry.resolver("openapi.json").lookup(node["$ref"]).contents if "$ref" in node else node


def require(schema, value):
    """The value is of this schema, one of the document's."""
    Draft202012Validator({"$ref": f"openapi.json{schema['$ref']}"}, registry=registry).validate(value)


def check(path, method, answer):
    """An answer's status, kind and JSON are among those that are described."""
    status, kind, body = answer
    described = resolve(resolve(api["paths"][path])[method]["responses"][str(status)])
    contents = described.get("content", {})
    assert kind in contents if body else not contents, (path, status, kind)
    if kind == "application/json":
        require(contents[kind]["schema"], json.loads(body))


read = 0
for path, item in api["paths"].items():
    if "get" in resolve(item) and path != "/openapi.json":
        check(path, "get", ask(path.replace("{model}", "tilesight").replace("{name}", "x")))
        read += 1
assert read > 10

check("/v2/models/{model}", "get", ask("/v2/models/other"))
with open(picture, "rb") as file:
    check("/v1/encode", "post", ask("/v1/encode", file.read()))
check("/v1/encode", "post", ask("/v1/encode", b"no picture"))

infer = "/v2/models/{model}/infer"
side = next(tensor for tensor in json.loads(ask("/v2/models/tilesight")[2])["inputs"] if tensor["name"] == "pixels")
channels, height, width = side["shape"][2:]
zeros = [0.0] * (4 * channels * height * width)
request = {
    "id": "a",
    "inputs": [
        {"name": "pixels", "shape": [1, 4, channels, height, width], "datatype": "FP32", "data": zeros},
        {"name": "aspect_ratio", "shape": [1, 2], "datatype": "INT64", "data": [2, 2]},
    ],
}
require(resolve(api["paths"][infer])["post"]["requestBody"]["content"]["application/json"]["schema"], request)
answer = ask(infer.replace("{model}", "tilesight"), json.dumps(request).encode(), {"Content-Type": "application/json"})
assert answer[0] == 200, answer
check(infer, "post", answer)
request["parameters"] = {"binary_data_output": True, "dtype": "BF16"}
check(infer, "post", ask(infer.replace("{model}", "tilesight"), json.dumps(request).encode()))
check(infer, "post", ask(infer.replace("{model}", "tilesight"), b"{"))
print(f"openapi.json: valid, and {read} routes say what it describes")
