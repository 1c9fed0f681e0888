//! The OpenAPI document, made from the table of routes; only the schemas are written by hand.

use serde_json::{Map, Value, json};

use crate::route::{Access, PAGE, ROUTES, Route};

/// What bodies look like, by name.
fn schemas() -> Map<String, Value> {
    serde_json::from_str(include_str!("schemas.json")).expect("a test reads the file")
}

/// The document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Nightshift", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn operation(route: &Route) -> Value {
    let mut parameters = vec![];
    if route.path.contains("{id}") {
        parameters.push(parameter("id", "path", "integer", "Number of the campaign", true));
    }
    if route.path.contains("{token}") {
        parameters.push(parameter("token", "path", "string", "The end of the link in the mail", true));
    }
    for known in route.query {
        parameters.push(parameter(known.name, "query", known.kind, known.about, false));
    }
    if route.creates {
        let about = "The same request with the same key is carried out once, within a day";
        parameters.push(parameter("Idempotency-Key", "header", "string", about, false));
    }
    let (status, schema) = route.answer;
    let problem = json!({
        "description": "What is wrong, and what to do",
        "content": {"application/problem+json": {"schema": reference("Problem")}},
    });
    let answer = match schema {
        PAGE => json!({"text/html": {"schema": {"type": "string"}}}),
        schema => json!({"application/json": {"schema": reference(schema)}}),
    };
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            status.to_string(): {
                "description": route.summary,
                "content": answer,
            },
            "4XX": problem,
            "5XX": problem,
        },
    });
    if let Access::Key(scope) = route.access {
        operation["security"] = json!([{"key": []}]);
        operation["description"] = format!("Needs a key with scope {scope}.").into();
    }
    if let Some(body) = route.body {
        let kind = if body == "Unsubscribe" { "application/x-www-form-urlencoded" } else { "application/json" };
        operation["requestBody"] = json!({"content": {kind: {"schema": reference(body)}}});
        if body == "Recipients" {
            operation["requestBody"]["content"]["text/csv"] = json!({"schema": {"type": "string"}});
        }
    }
    operation
}

fn parameter(name: &str, place: &str, kind: &str, about: &str, required: bool) -> Value {
    json!({"name": name, "in": place, "required": required, "description": about, "schema": {"type": kind}})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_and_the_routes_agree_in_both_directions() {
        let document = document();
        let documented: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .expect("paths")
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().expect("methods").keys().map(move |method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let routes: BTreeSet<(String, String)> =
            ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
        assert_eq!(documented, routes);
        assert_eq!(routes.len(), ROUTES.len(), "a route stands twice");
    }

    #[test]
    fn every_schema_that_is_named_exists_and_every_one_that_exists_is_named() {
        let text = document().to_string();
        let named: BTreeSet<String> = text
            .split("#/components/schemas/")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap_or_default().to_owned())
            .collect();
        let exist: BTreeSet<String> = schemas().keys().cloned().collect();
        assert_eq!(named, exist);
    }
}
