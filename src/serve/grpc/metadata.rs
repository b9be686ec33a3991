//! What can be asked about the server, its model, and memory that is shared with it.

use std::sync::Arc;

use super::super::protocol::{self, MODEL, VERSION, require_model, require_version};
use super::super::refused::Refused;
use super::super::service::Service;
use super::super::shared_memory::Region;
use super::SERVICE;
use super::health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use super::inference::model_metadata_response::TensorMetadata;
use super::inference::repository_index_response::ModelIndex;
use super::inference::system_shared_memory_status_response::RegionStatus;
use super::inference::*;
use crate::batch::Phase;

fn is_ready(service: &Service) -> bool {
    service.batcher.phase() == Phase::Serving
}

pub(super) fn server_live(_: &Service, _: ServerLiveRequest) -> Result<ServerLiveResponse, Refused> {
    Ok(ServerLiveResponse { live: true })
}

pub(super) fn server_ready(service: &Service, _: ServerReadyRequest) -> Result<ServerReadyResponse, Refused> {
    Ok(ServerReadyResponse { ready: is_ready(service) })
}

/// A model that is not here is not ready either: Triton's clients expect an answer.
pub(super) fn model_ready(service: &Service, asked: ModelReadyRequest) -> Result<ModelReadyResponse, Refused> {
    let is_here = require_model(&asked.name).and_then(|()| require_version(&asked.version)).is_ok();
    Ok(ModelReadyResponse { ready: is_here && is_ready(service) })
}

/// gRPC's health protocol: services by their full names, or all of them together.
pub(super) fn health(service: &Service, asked: HealthCheckRequest) -> Result<HealthCheckResponse, Refused> {
    if !["", SERVICE].contains(&&asked.service[..]) {
        return Err(Refused::NotHere { what: format!("service {:?}", asked.service) });
    }
    let status = if is_ready(service) { ServingStatus::Serving } else { ServingStatus::NotServing };
    Ok(HealthCheckResponse { status: status.into() })
}

pub(super) fn server_metadata(service: &Service, _: ServerMetadataRequest) -> Result<ServerMetadataResponse, Refused> {
    Ok(ServerMetadataResponse {
        name: MODEL.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: protocol::extensions(service).map(String::from).collect(),
    })
}

pub(super) fn model_metadata(service: &Service, asked: ModelMetadataRequest) -> Result<ModelMetadataResponse, Refused> {
    require_model(&asked.name)?;
    require_version(&asked.version)?;
    let tensor = |(name, datatype, shape): (&str, &str, Vec<i64>)| TensorMetadata {
        name: name.into(),
        datatype: datatype.into(),
        shape,
    };
    Ok(ModelMetadataResponse {
        name: MODEL.into(),
        versions: vec![VERSION.into()],
        platform: MODEL.into(),
        inputs: protocol::inputs(service).map(tensor).into(),
        outputs: protocol::outputs(service).map(tensor).into(),
    })
}

pub(super) fn model_config(service: &Service, asked: ModelConfigRequest) -> Result<ModelConfigResponse, Refused> {
    require_model(&asked.name)?;
    require_version(&asked.version)?;
    let data_type = |datatype| DataType::from_str_name(&protocol::data_type(datatype)).unwrap_or_default().into();
    // A request has a picture or pixels, so none of the inputs is in every request.
    let input = |(name, datatype, dims): (&str, _, _)| ModelInput {
        name: name.into(),
        data_type: data_type(datatype),
        dims,
        optional: true,
    };
    let output =
        |(name, datatype, dims): (&str, _, _)| ModelOutput { name: name.into(), data_type: data_type(datatype), dims };
    let config = ModelConfig {
        name: MODEL.into(),
        platform: MODEL.into(),
        backend: MODEL.into(),
        max_batch_size: 0,
        input: protocol::inputs(service).map(input).into(),
        output: protocol::outputs(service).map(output).into(),
    };
    Ok(ModelConfigResponse { config: Some(config) })
}

pub(super) fn repository_index(
    service: &Service,
    asked: RepositoryIndexRequest,
) -> Result<RepositoryIndexResponse, Refused> {
    let [name, version, state, reason] = protocol::index(service);
    let model = ModelIndex { name, version, state, reason };
    Ok(RepositoryIndexResponse { models: if is_ready(service) || !asked.ready { vec![model] } else { vec![] } })
}

pub(super) fn model_statistics(
    service: &Service,
    asked: ModelStatisticsRequest,
) -> Result<ModelStatisticsResponse, Refused> {
    if !asked.name.is_empty() {
        require_model(&asked.name)?;
    }
    require_version(&asked.version)?;
    Ok(service.metrics.statistics.read())
}

/// The region of a name, or all of them where there is none.
pub(super) fn regions(
    service: &Service,
    asked: SystemSharedMemoryStatusRequest,
) -> Result<SystemSharedMemoryStatusResponse, Refused> {
    let regions = service.regions.status(Some(&asked.name[..]).filter(|name| !name.is_empty()))?;
    let status = |region: &Arc<Region>| {
        let Region { name, key, offset, byte_size, .. } = &**region;
        let status = RegionStatus { name: name.clone(), key: key.clone(), offset: *offset, byte_size: *byte_size };
        (name.clone(), status)
    };
    Ok(SystemSharedMemoryStatusResponse { regions: regions.iter().map(status).collect() })
}

pub(super) fn register_region(
    service: &Service,
    asked: SystemSharedMemoryRegisterRequest,
) -> Result<SystemSharedMemoryRegisterResponse, Refused> {
    service.regions.register(&asked.name, &asked.key, asked.offset, asked.byte_size)?;
    Ok(SystemSharedMemoryRegisterResponse {})
}

pub(super) fn unregister_region(
    service: &Service,
    asked: SystemSharedMemoryUnregisterRequest,
) -> Result<SystemSharedMemoryUnregisterResponse, Refused> {
    service.regions.unregister(Some(&asked.name[..]).filter(|name| !name.is_empty()));
    Ok(SystemSharedMemoryUnregisterResponse {})
}
