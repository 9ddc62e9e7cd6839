//! The four calls to AWS IoT. Throttling and broken connections are tried again by the SDK (three attempts); what
//! fails after that fails the invocation.

use std::error::Error;

use aws_credential_types::Credentials;
use aws_sdk_iot::config::{BehaviorVersion, Region};
use aws_sdk_iot::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_iotdataplane::operation::get_thing_shadow::GetThingShadowError;
use aws_sdk_iotdataplane::operation::update_thing_shadow::UpdateThingShadowError;
use aws_sdk_iotdataplane::primitives::Blob;
use aws_smithy_http_client::{Builder, tls};
use serde_json::Value;

use crate::decision::{Shadow, ShadowError};

/// AWS IoT, the registry and the shadows.
#[derive(Debug, Clone)]
pub struct AwsIot {
    registry: aws_sdk_iot::Client,
    shadows: aws_sdk_iotdataplane::Client,
}

/// A variable every Lambda function has is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not set: this program is an AWS Lambda function")]
pub struct EnvironmentError(&'static str);

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Somebody else wrote the shadow in between.
    #[error("the shadow of {0} has another version by now")]
    Conflict(String),
    /// AWS refused, or could not be reached.
    #[error("{call} for {thing}: {code}: {message}")]
    Refused {
        /// The operation.
        call: &'static str,
        /// For which thing.
        thing: String,
        /// AWS's error code, or what happened on the way.
        code: String,
        /// AWS's words.
        message: String,
    },
    /// GetThingShadow gave something else.
    #[error("the shadow of {0}")]
    Shadow(String, #[source] ShadowError),
}

impl AwsIot {
    /// With the credentials, the region and (for tests) the endpoint Lambda's environment names.
    ///
    /// # Errors
    /// Outside Lambda.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let needed = |name| variable(name).ok_or(EnvironmentError(name));
        // A function's credentials outlast its process, so they are read once.
        let credentials = Credentials::new(
            needed("AWS_ACCESS_KEY_ID")?,
            needed("AWS_SECRET_ACCESS_KEY")?,
            variable("AWS_SESSION_TOKEN"),
            None,
            "Lambda",
        );
        let region = Region::new(needed("AWS_REGION")?);
        let http = Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring));
        let http = http.build_https();
        let mut registry = aws_sdk_iot::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(credentials.clone())
            .region(region.clone())
            .http_client(http.clone());
        let mut shadows = aws_sdk_iotdataplane::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(credentials)
            .region(region)
            .http_client(http);
        registry.set_endpoint_url(variable("AWS_ENDPOINT_URL"));
        shadows.set_endpoint_url(variable("AWS_ENDPOINT_URL"));
        Ok(Self {
            registry: aws_sdk_iot::Client::from_conf(registry.build()),
            shadows: aws_sdk_iotdataplane::Client::from_conf(shadows.build()),
        })
    }

    /// GetThingShadow; a shadow nobody wrote yet is an empty one.
    ///
    /// # Errors
    /// When AWS refuses, or answers with something else.
    pub async fn shadow(&self, thing: &str, name: Option<&str>) -> Result<Shadow, CallError> {
        let call = self
            .shadows
            .get_thing_shadow()
            .thing_name(thing)
            .set_shadow_name(name.map(str::to_owned));
        match call.send().await {
            Ok(answer) => {
                let document = answer.payload.unwrap_or_else(|| Blob::new(""));
                Shadow::parse(document.as_ref()).map_err(|error| CallError::Shadow(thing.to_owned(), error))
            }
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(GetThingShadowError::is_resource_not_found_exception) =>
            {
                Ok(Shadow::default())
            }
            Err(error) => Err(refused("GetThingShadow", thing, &error)),
        }
    }

    /// UpdateThingShadow.
    ///
    /// # Errors
    /// [`CallError::Conflict`] when the update names a version that is not the current one; when AWS refuses.
    pub async fn update_shadow(&self, thing: &str, name: Option<&str>, update: &Value) -> Result<(), CallError> {
        let call = self
            .shadows
            .update_thing_shadow()
            .thing_name(thing)
            .set_shadow_name(name.map(str::to_owned));
        match call.payload(Blob::new(update.to_string())).send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(UpdateThingShadowError::is_conflict_exception) =>
            {
                Err(CallError::Conflict(thing.to_owned()))
            }
            Err(error) => Err(refused("UpdateThingShadow", thing, &error)),
        }
    }

    /// UpdateThingGroupsForThing, into the group or out of it. AWS takes both as often as one likes.
    ///
    /// # Errors
    /// When AWS refuses; an unknown thing or group is refused.
    pub async fn set_membership(&self, thing: &str, group: &str, member: bool) -> Result<(), CallError> {
        let call = self.registry.update_thing_groups_for_thing().thing_name(thing);
        let call = match member {
            true => call.thing_groups_to_add(group),
            false => call.thing_groups_to_remove(group),
        };
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(refused("UpdateThingGroupsForThing", thing, &error)),
        }
    }
}

fn refused<E, R>(call: &'static str, thing: &str, error: &SdkError<E, R>) -> CallError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let code = error.code().unwrap_or("not reached").to_owned();
    let message = match error.message() {
        Some(message) => message.to_owned(),
        None => DisplayErrorContext(error).to_string(),
    };
    CallError::Refused {
        call,
        thing: thing.to_owned(),
        code,
        message,
    }
}
