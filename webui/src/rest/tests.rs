use super::{OPENAPI, routes};
use crate::errors::{ApiError, ErrorKind};
use std::collections::BTreeSet;

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path}");
            let open = operation["security"].as_array().is_some_and(Vec::is_empty);
            described.insert((method.to_uppercase(), path.clone(), open));
        }
    }
    let served: BTreeSet<_> =
        routes().into_iter().map(|r| (r.method.to_string(), r.path.to_owned(), r.open)).collect();
    assert_eq!(described, served);
}

#[test]
fn every_reference_of_the_description_leads_somewhere() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for part in OPENAPI.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
}

#[test]
fn every_error_kind_is_described() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    let kinds =
        &document["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["kind"]["enum"];
    for kind in [
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::Invalid,
        ErrorKind::Unavailable,
        ErrorKind::Refused,
        ErrorKind::InUse,
        ErrorKind::TimedOut,
        ErrorKind::Unauthorized,
        ErrorKind::Forbidden,
        ErrorKind::SetupNeeded,
        ErrorKind::TooManyAttempts,
        ErrorKind::TooLarge,
        ErrorKind::MethodNotAllowed,
        ErrorKind::Internal,
    ] {
        let word = serde_json::to_value(kind).unwrap();
        assert!(kinds.as_array().unwrap().contains(&word), "{word}");
        assert!(ApiError::new(kind, "x").status().as_u16() >= 400);
    }
}
