//! Services: one is read as it is now, and its status is written on condition of its revision.
//!
//! They are no records of ours, so nothing else of them is written. Not here: their watch.

use ::http::{Method, StatusCode};
use ripstop_objects::service::Assigned;
use ripstop_types::{Invalid, Revision, ServiceName};
use serde_json::{Value, json};

use super::Shared;
use super::fault::Status;
use super::http::Ask;
use crate::{Kind, Record, StoreError};

impl Shared {
    /// A Service as the server has it, with all its fields.
    pub(super) async fn service(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let tried = "get services";
        let answer = self.ask(tried, &Ask::get(path_of(key)?)).await?;
        match answer.status {
            StatusCode::OK => {
                let revision = self.revision_in(&answer)?;
                let value = serde_json::from_slice(&answer.body)
                    .map_err(|fault| self.nonsense(format!("a Service that cannot be read: {fault}")))?;
                Ok(Some(Record { kind: Kind::Services, key: key.to_owned(), value, revision }))
            }
            _ if Status::says_absent(&answer) => Ok(None),
            _ => Err(self.refused(tried, false, &answer)),
        }
    }

    /// Puts these fields into the status of a Service at a revision; `None` where it is at another, or not there. Of its conditions ours
    /// alone is written; without one it is removed.
    pub(super) async fn put_service_status(
        &self,
        key: &str,
        status: &Value,
        at: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        let tried = "patch services/status";
        let path = format!("{}/status?fieldManager=ripstop", path_of(key)?);
        let mut status = status.clone();
        if status["conditions"].as_array().is_some_and(Vec::is_empty) {
            status["conditions"] = json!([{"$patch": "delete", "type": Assigned::CONDITION}]);
        }
        let patch = json!({"metadata": {"resourceVersion": at.to_string()}, "status": status});
        // Conditions are merged by their types so; another's stay as they are.
        let body = Some(("application/strategic-merge-patch+json", patch.to_string().into()));
        let answer = self.ask(tried, &Ask { method: Method::PATCH, path, body }).await?;
        match answer.status {
            StatusCode::CONFLICT => Ok(None),
            _ if Status::says_absent(&answer) => Ok(None),
            status if status.is_success() => self.revision_in(&answer).map(Some),
            _ => Err(self.refused(tried, true, &answer)),
        }
    }
}

fn path_of(key: &str) -> Result<String, Invalid> {
    let name: ServiceName = key.parse()?;
    Ok(format!("/api/v1/namespaces/{}/services/{}", name.namespace, name.name))
}
