//! An AWS Lambda function: a Device Defender alarm (through SNS, or from an Edge Warden through an IoT rule) becomes
//! `desired.quarantine` in the thing's shadow, and membership in a thing group.
//!
//! `alarm` reads events, `settings` the environment, `decision` is the pure core, `aws` the calls, `handle` their order.

mod alarm;
mod aws;
mod decision;
mod handle;
mod names;
mod settings;

use std::time::{SystemTime, UNIX_EPOCH};

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;

use crate::aws::AwsIot;
use crate::settings::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let variable = |name: &str| std::env::var(name).ok();
    let settings = Settings::read(variable)?;
    let aws = AwsIot::from_environment(variable)?;
    let (settings, aws) = (&settings, &aws);
    run(service_fn(move |event: LambdaEvent<Value>| async move {
        #[allow(
            clippy::disallowed_methods,
            reason = "the only reader of the clock; the rest is given the time"
        )]
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let lines = handle::handle(event.payload, aws, settings, now).await?;
        lines.iter().for_each(|line| println!("{line}"));
        Ok::<_, Error>(lines)
    }))
    .await
}
