//! Questions about any object to an API server, for who installs and removes: beside the store, by the same client.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;

use super::fault::{Status, lost, refusal, refused, supported};
use super::http::{Answer, Ask, Client};
use super::options::Access;
use crate::StoreError;

/// Who is named as the manager of fields that are applied.
const MANAGER: &str = "ripstop";

/// An API server and who asks it.
pub struct Api {
    client: Client,
}

impl Api {
    /// One that looks for its server when it is first asked; `timeout` is the longest wait for an answer.
    pub fn new(access: Access, timeout: Duration) -> Self {
        Self { client: Client::new(access, timeout) }
    }

    /// Refuses a server that is too old, or none at all.
    ///
    /// # Errors
    /// No answer, or one that is not that of a supported server.
    pub async fn check(&self) -> Result<(), StoreError> {
        let answer = self.ask(Ask::get("/version".into()), "ask for its version").await?;
        supported(&self.client.peer(), &answer)
    }

    /// What is at a path; nothing where there is nothing.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, StoreError> {
        let answer = self.ask(Ask::get(path.into()), &format!("get {path}")).await?;
        Ok(if answer.status == StatusCode::NOT_FOUND { None } else { serde_json::from_slice(&answer.body).ok() })
    }

    /// The text at a path, empty where there is nothing: a log.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn text(&self, path: &str) -> Result<String, StoreError> {
        let answer = self.ask(Ask::get(path.into()), &format!("get {path}")).await?;
        let there = answer.status.is_success();
        Ok(if there { String::from_utf8_lossy(&answer.body).into_owned() } else { String::new() })
    }

    /// Applies an object on the server's side, taking fields of other managers over.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn apply(&self, path: &str, object: &Value) -> Result<(), StoreError> {
        let body = Some(("application/apply-patch+yaml", object.to_string().into()));
        let ask = Ask { method: Method::PATCH, path: format!("{path}?fieldManager={MANAGER}&force=true"), body };
        let answer = self.ask(ask, &format!("apply {path}")).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(refused(&self.client.peer(), &format!("apply {path}"), true, &answer));
        }
        Ok(())
    }

    /// Deletes an object, and what belongs to it; whether it was there.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn delete(&self, path: &str) -> Result<bool, StoreError> {
        let path = format!("{path}?propagationPolicy=Background");
        let answer =
            self.ask(Ask { method: Method::DELETE, path: path.clone(), body: None }, &format!("delete {path}")).await?;
        Ok(answer.status != StatusCode::NOT_FOUND)
    }

    /// An answer that is a success, or says that there is nothing.
    async fn ask(&self, ask: Ask, tried: &str) -> Result<Answer, StoreError> {
        let writes = ask.method != Method::GET;
        let answer = self.client.ask(&ask).await.map_err(|fault| lost(&self.client.peer(), tried, writes, fault))?;
        match answer.status {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(answer),
            StatusCode::FORBIDDEN => {
                let said = Status::of(&answer).message;
                Err(refusal(&self.client.peer(), format!("{said}: this needs the rights of cluster-admin")))
            }
            _ => Err(refused(&self.client.peer(), tried, writes, &answer)),
        }
    }
}
