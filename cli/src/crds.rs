//! The custom resources of Kubernetes, made from the declarations of the code as the JSON Schemas are.

use outrigger_config::Settings;
use outrigger_ingress::config::{MAX_ITEMS, MeshService};
use serde_json::{Map, Value, json};

/// Keywords that a structural schema of Kubernetes may not have, or that would write defaults into what people wrote.
const LEFT_OUT: [&str; 5] = ["$schema", "title", "default", "propertyNames", "additionalProperties"];

const HEAD: &str = "\
# Written by `UPDATE_DOCS=1 cargo test -p outrigger --test crds`. Do not edit by hand.
";

/// The definitions, each with the name of its file in k8s/base/crds.
pub fn all() -> [(&'static str, String); 2] {
    [("securitypolicies.yaml", security_policy()), ("meshservices.yaml", mesh_service())]
}

fn security_policy() -> String {
    definition(&Resource {
        kind: "SecurityPolicy",
        plural: "securitypolicies",
        about: "Who may use which tools, prompts and resources of the mesh, and how often (docs/POLICY.md).",
        columns: json!([
            column("Mode", ".spec.mode"),
            column("Accepted", &condition("Accepted", "status")),
            column("Programmed", &condition("Programmed", "status")),
            column("Reason", &condition("Programmed", "reason")),
        ]),
        spec: policy_spec(&outrigger_policy::settings()),
        status: json!({}),
        says: "What became of it, by the ingress: Accepted says whether it is good, Programmed whether it is in force.",
    })
}

fn mesh_service() -> String {
    let number = |name: &str, path: &str| json!({"name": name, "type": "integer", "jsonPath": path});
    let count = |about: &str| json!({"type": "integer", "minimum": 0, "description": about});
    definition(&Resource {
        kind: "MeshService",
        plural: "meshservices",
        about: "A service of the mesh: where its sidecars are, and what holds for it (docs/DISCOVERY.md).",
        columns: json!([
            column("Service", ".status.service"),
            number("Replicas", ".status.replicas"),
            number("Answering", ".status.ready"),
            column("Accepted", &condition("Accepted", "status")),
            column("Ready", &condition("Ready", "status")),
            column("Reason", &condition("Ready", "reason")),
        ]),
        spec: mesh_service_spec(&MeshService::describe()),
        status: json!({
            "service": {"type": "string", "maxLength": 63, "description": "Its name in the mesh."},
            "replicas": count("Replicas that are known."),
            "ready": count("Replicas that answer."),
        }),
        says: "What became of it, by the ingress: Accepted says whether it is good, Ready whether a replica answers.",
    })
}

/// What is different in each definition.
struct Resource {
    kind: &'static str,
    plural: &'static str,
    about: &'static str,
    /// What people see in lists, before the age.
    columns: Value,
    spec: Value,
    /// Of the status, beside the conditions.
    status: Value,
    says: &'static str,
}

fn column(name: &str, path: &str) -> Value {
    json!({"name": name, "type": "string", "jsonPath": path})
}

fn condition(name: &str, what: &str) -> String {
    format!(".status.conditions[?(@.type==\"{name}\")].{what}")
}

fn definition(of: &Resource) -> String {
    let mut columns = of.columns.clone();
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    columns.as_array_mut().into_iter().for_each(|all| all.push(age.clone()));
    let schema = json!({
        "description": of.about, "type": "object", "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 63}},
            },
            "spec": of.spec,
            "status": status(of),
        },
    });
    let version = json!({
        "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "additionalPrinterColumns": columns, "schema": {"openAPIV3Schema": schema},
    });
    let names = json!({"kind": of.kind, "listKind": format!("{}List", of.kind), "plural": of.plural,
        "singular": of.kind.to_lowercase(), "categories": ["outrigger"]});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.mcpx.io", of.plural)},
        "spec": {"group": "mcpx.io", "scope": "Namespaced", "names": names, "versions": [version]},
    });
    format!("{HEAD}{}", yaml(&definition))
}

/// The form of `spec` of a service of the mesh.
fn mesh_service_spec(settings: &Settings) -> Value {
    let mut spec = structural(&settings.to_json_schema(""));
    spec["description"] = json!("What is said of the service; fields as in an entry of `services` in the settings.");
    // A name or a number, as ports are everywhere.
    let port = &mut spec["properties"]["port"];
    *port = json!({"x-kubernetes-int-or-string": true, "description": port["description"]});
    // As the ingress bounds them.
    let tools = &mut spec["properties"]["tools"];
    tools["maxItems"] = json!(MAX_ITEMS);
    tools["items"]["properties"]["names"]["maxItems"] = json!(MAX_ITEMS);
    spec["properties"]["addresses"]["maxItems"] = json!(MAX_ITEMS);
    spec["x-kubernetes-validations"] = json!([
        {"rule": "!has(self.service) || !has(self.addresses) || size(self.addresses) == 0",
         "message": "replicas would come from two places: give `service` or `addresses`"},
        {"rule": "!has(self.port) || has(self.service)",
         "message": "`port` is a port of the pods of `service`: add that, or remove `port`"},
        {"rule": "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",
         "message": "`name` stays: whoever changes it would take over another service; delete the object and create another"},
    ]);
    spec
}

/// The form of `spec`, with what Kubernetes can check by itself.
fn policy_spec(settings: &Settings) -> Value {
    let mut spec = structural(&settings.to_json_schema("")["properties"]["spec"]);
    spec["x-kubernetes-validations"] = json!([{
        "rule": "!has(self.mode) || self.mode != 'audit' || !has(self.limits)",
        "message": "limits are always in force, and this policy only watches: put them into a policy of their own",
    }]);
    let rule = &mut spec["properties"]["authorization"]["properties"]["rules"]["items"]["properties"];
    for list in ["services", "capabilities", "kinds", "requires"] {
        rule[list]["minItems"] = json!(1);
    }
    // Exactly one word in each entry.
    let entry = &mut rule["requires"]["items"];
    entry["minProperties"] = json!(1);
    entry["maxProperties"] = json!(1);
    spec
}

/// What the ingress writes.
fn status(of: &Resource) -> Value {
    let text = |most: u64| json!({"type": "string", "maxLength": most});
    let condition = json!({
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text(316),
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": text(1024),
            "message": text(32768),
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    });
    let mut properties = of.status.clone();
    properties["conditions"] = json!({"type": "array", "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]});
    json!({"description": of.says, "type": "object", "properties": properties})
}

/// A structural schema: every value has a type, and nothing stands in it that Kubernetes refuses.
fn structural(schema: &Value) -> Value {
    let Some(members) = schema.as_object() else { return schema.clone() };
    let mut out = Map::new();
    for (name, member) in members.iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str())) {
        let member = match (name.as_str(), member.as_object()) {
            ("properties", Some(all)) => all.iter().map(|(name, one)| (name.clone(), structural(one))).collect(),
            ("items", _) => structural(member),
            _ => member.clone(),
        };
        out.insert(name.clone(), member);
    }
    if out.contains_key("enum") && !out.contains_key("type") {
        out.insert("type".to_owned(), json!("string"));
    }
    Value::Object(out)
}

/// As YAML, block style.
fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out
}

/// Writes a value that stands on lines of its own.
fn write(out: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                out.push_str(&format!("{indent}{}:", scalar(&json!(name))));
                nested(out, member, depth + 1);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut text = String::new();
                write(&mut text, item, depth + 1);
                // The dash takes the place of the first line's last indentation.
                out.push_str(&format!("{indent}- {}", text.trim_start()));
            }
        }
        plain => out.push_str(&format!("{indent}{}\n", scalar(plain))),
    }
}

/// Writes what follows a name.
fn nested(out: &mut String, value: &Value, depth: usize) {
    let is_block =
        value.as_object().is_some_and(|all| !all.is_empty()) || value.as_array().is_some_and(|all| !all.is_empty());
    if is_block {
        out.push('\n');
        write(out, value, depth);
    } else {
        out.push_str(&format!(" {}\n", scalar(value)));
    }
}

/// A value on one line: JSON is YAML, and words need no quotes.
fn scalar(value: &Value) -> String {
    let plain = |text: &&str| {
        let word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./$".contains(&byte));
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'$');
        // Words that are no texts in some version of YAML.
        let other = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
        word && starts && !other.contains(&text.to_ascii_lowercase().as_str())
    };
    match value.as_str().filter(plain) {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_says_what_json_says() {
        let value = json!({"a": {"b": [1, "x y", {"c": true, "d": []}], "no": "no"}, "e": {}, "f": [[1, 2]]});
        let text = "a:\n  b:\n    - 1\n    - \"x y\"\n    - c: true\n      d: []\n  \"no\": \"no\"\ne: {}\nf:\n  - - 1\n    - 2\n";
        assert_eq!(yaml(&value), text);
    }

    #[test]
    fn schemas_become_structural() {
        let schema = json!({"type": "object", "additionalProperties": false, "title": "t", "properties": {
            "default": {"enum": ["a"], "default": "a"}, "list": {"type": "array", "items": {"enum": ["b"]}}}});
        let expected = json!({"type": "object", "properties": {
            "default": {"enum": ["a"], "type": "string"},
            "list": {"type": "array", "items": {"enum": ["b"], "type": "string"}}}});
        assert_eq!(structural(&schema), expected);
    }
}
