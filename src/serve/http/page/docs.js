// Shows openapi.json, as much of OpenAPI as that file uses.

const api = await (await fetch("openapi.json")).json();

/// What a reference points at, with the name it has there.
function resolve(node) {
  if (!node.$ref) return node;
  const steps = node.$ref.slice(2).split("/").map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
  return steps.reduce((inner, step) => inner[step], api);
}

function element(name, className, ...children) {
  const made = Object.assign(document.createElement(name), { className });
  made.append(...children);
  return made;
}

const code = (text) => element("code", "", text);

/// A schema in one line, with links to those that have names.
function inOneLine(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return Object.assign(element("a", "", name), { href: `#${name}` });
  }
  if (schema.const !== undefined) return code(JSON.stringify(schema.const));
  if (schema.enum) return element("span", "", ...schema.enum.flatMap((value, k) => [...(k ? [" or "] : []), code(value)]));
  if (schema.items) return element("span", "", "list of ", inOneLine(schema.items));
  return element("span", "", { array: "list" }[schema.type] ?? schema.type ?? "bytes");
}

/// Rows of a name, what may stand there, and what it means.
function table(rows) {
  const lines = rows.map(([name, required, schema, description]) => {
    const about = element("dd", "", inOneLine(schema));
    if (schema.default !== undefined) about.append("; otherwise ", code(schema.default));
    const words = description ?? schema.description;
    if (words) about.append(`. ${words}.`);
    return element("div", "", element("dt", "", code(name), required ? " (required)" : ""), about);
  });
  return element("dl", "rows", ...lines);
}

function properties(schema) {
  return Object.entries(schema.properties ?? {}).flatMap(([name, inner]) => [
    [name, schema.required?.includes(name), inner],
    ...properties(inner).map(([deeper, ...rest]) => [`${name}.${deeper}`, ...rest]),
  ]);
}

/// What bodies there are, and of which form.
function contents(content) {
  const kinds = Object.entries(content ?? {}).map(([kind, { schema }]) => {
    const form = schema.description ? element("span", "", schema.description) : inOneLine(schema);
    return element("li", "", code(kind), ": ", form);
  });
  return element("ul", "", ...kinds);
}

function answers(responses) {
  return Object.entries(responses).map(([status, reference]) => {
    const { description, headers, content } = resolve(reference);
    const answer = element("dd", "", `${description}.`);
    for (const [name, header] of Object.entries(headers ?? {})) {
      answer.append(element("div", "", code(name), `: ${resolve(header).description}.`));
    }
    // A refusal has always the same form.
    if (content && status < "300") answer.append(contents(content));
    return element("div", "", element("dt", "", code(status)), answer);
  });
}

function operation(method, paths, described) {
  const { summary, description, parameters, requestBody, responses } = described;
  const lines = paths.map((path) => element("p", "path", element("b", method, method), " ", code(path)));
  const section = element("article", "", element("h3", "", summary), ...lines);
  if (description) section.append(element("p", "", description));
  const known = (parameters ?? []).map(resolve);
  if (known.length) {
    section.append(element("h4", "", "Parameters"));
    section.append(table(known.map((p) => [p.name, p.required, p.schema, `${p.description} (${p.in})`])));
  }
  if (requestBody) section.append(element("h4", "", "Body"), contents(requestBody.content));
  section.append(element("h4", "", "Answers"), element("dl", "rows answers", ...answers(responses)));
  return section;
}

/// Paths that share a description are shown once.
function operations(tag) {
  const known = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const [method, described] of Object.entries(resolve(item))) {
      if (!described.tags.includes(tag)) continue;
      if (!known.has(described)) known.set(described, { method, paths: [] });
      known.get(described).paths.push(path);
    }
  }
  return [...known].map(([described, { method, paths }]) => operation(method, paths, described));
}

const page = document.getElementById("document");
document.getElementById("version").textContent = `${api.info.version}, OpenAPI ${api.openapi}`;
page.append(element("p", "", api.info.summary, " ", api.info.description));
for (const { name, description } of api.tags) {
  page.append(element("section", "", element("h2", "", description), ...operations(name)));
}
const schemas = Object.entries(api.components.schemas).map(([name, schema]) =>
  Object.assign(element("article", "", element("h3", "", name), table(properties(schema))), { id: name }));
page.append(element("section", "", element("h2", "", "JSON"), ...schemas));
page.removeAttribute("aria-busy");
