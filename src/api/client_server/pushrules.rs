//! `GET /_matrix/client/v3/pushrules/…`: the push rules of a user.
//! May not: change them; until that exists everybody has the predefined rules.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules-api>

use actix_web::{HttpResponse, web};
use ruma::{
    UserId,
    api::client::push::PushRule,
    push::{AnyPushRuleRef, RuleKind, Ruleset},
};
use serde_json::{Map, Value, json};

use super::paths::each;
use crate::{
    error::MatrixError,
    extract::{Caller, PathArguments},
};

/// The kinds of rules in the order in which they are looked at.
const KINDS: [&str; 5] = ["override", "content", "room", "sender", "underride"];

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/pushrules") {
        config
            .service(web::resource([path.clone(), format!("{path}/")]).get(whole))
            .service(web::resource([format!("{path}/global"), format!("{path}/global/")]).get(global))
            .service(web::resource(format!("{path}/global/{{kind}}/{{rule_id}}")).get(rule))
            .service(web::resource(format!("{path}/global/{{kind}}/{{rule_id}}/enabled")).get(enabled))
            .service(web::resource(format!("{path}/global/{{kind}}/{{rule_id}}/actions")).get(actions));
    }
}

/// The content of a user's `m.push_rules`: `{"global": …}`, as account data and `/sync` show it.
#[must_use]
pub fn push_rules_content(user_id: &UserId) -> Value {
    json!({ "global": global_rules(user_id) })
}

async fn whole(caller: Caller) -> HttpResponse {
    HttpResponse::Ok().json(push_rules_content(&caller.user_id))
}

async fn global(caller: Caller) -> HttpResponse {
    HttpResponse::Ok().json(global_rules(&caller.user_id))
}

async fn rule(caller: Caller, path: PathArguments) -> Result<HttpResponse, MatrixError> {
    let rules = Ruleset::server_default(&caller.user_id);
    Ok(HttpResponse::Ok().json(shown(find(&rules, &path)?)))
}

async fn enabled(caller: Caller, path: PathArguments) -> Result<HttpResponse, MatrixError> {
    let rules = Ruleset::server_default(&caller.user_id);
    Ok(HttpResponse::Ok().json(json!({ "enabled": find(&rules, &path)?.enabled() })))
}

async fn actions(caller: Caller, path: PathArguments) -> Result<HttpResponse, MatrixError> {
    let rules = Ruleset::server_default(&caller.user_id);
    Ok(HttpResponse::Ok().json(json!({ "actions": find(&rules, &path)?.actions() })))
}

fn find<'a>(rules: &'a Ruleset, path: &PathArguments) -> Result<AnyPushRuleRef<'a>, MatrixError> {
    rules.get(RuleKind::from(path.get(0)), path.get(1)).ok_or_else(|| MatrixError::not_found("no such push rule"))
}

fn shown(rule: AnyPushRuleRef<'_>) -> Value {
    serde_json::to_value(PushRule::from(rule.to_owned())).unwrap_or_default()
}

/// Kinds without rules are sent as empty lists, which ruma leaves out: some clients take them for granted.
fn global_rules(user_id: &UserId) -> Value {
    let rules = serde_json::to_value(Ruleset::server_default(user_id)).unwrap_or_default();
    let all: Map<String, Value> = KINDS
        .into_iter()
        .map(|kind| (kind.to_owned(), rules.get(kind).cloned().unwrap_or_else(|| json!([]))))
        .collect();
    all.into()
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn every_kind_is_sent_and_the_predefined_rules_are_there() {
        let content = push_rules_content(user_id!("@alice:example.org"));
        let ids = |kind: &str| -> Vec<&str> {
            content["global"][kind].as_array().unwrap().iter().map(|rule| rule["rule_id"].as_str().unwrap()).collect()
        };
        for expected in [".m.rule.master", ".m.rule.member_event", ".m.rule.is_user_mention", ".m.rule.room.server_acl"]
        {
            assert!(ids("override").contains(&expected), "{expected}");
        }
        assert_eq!(ids("underride").len(), 5);
        for kind in ["content", "room", "sender"] {
            assert!(ids(kind).is_empty(), "{kind}");
        }
    }

    #[test]
    fn single_rules_are_found_by_kind_and_id() {
        let rules = Ruleset::server_default(user_id!("@alice:example.org"));
        let found = |kind: &str, rule: &str| {
            find(&rules, &PathArguments::of("/{kind}/{rule}", &format!("/{kind}/{rule}")).unwrap())
        };
        let master = found("override", ".m.rule.master").unwrap();
        assert!(!master.enabled());
        assert_eq!(shown(master)["rule_id"], json!(".m.rule.master"));
        for (kind, rule) in [("underride", ".m.rule.master"), ("override", "x"), ("nonsense", ".m.rule.master")] {
            assert_eq!(found(kind, rule).unwrap_err().status, 404, "{kind} {rule}");
        }
    }
}
