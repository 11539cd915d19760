import pytest

from animora_artifact import open_store
from animora_artifact.s3_url import S3Place


def test_an_s3_url_has_bucket_prefix_and_options():
    url = "s3://bucket/a%20shop/models/?endpoint_url=http://localhost:9000&region=eu-west-1&timeout=2.5"
    assert S3Place.parse(url) == S3Place(
        "bucket", "a shop/models", "http://localhost:9000", region="eu-west-1", timeout=2.5
    )
    assert S3Place.parse("s3://bucket") == S3Place("bucket", "")
    assert str(S3Place.parse(url)) == "s3://bucket/a shop/models"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3:///models", "write s3://BUCKET/PREFIX"),
        ("s3:/models", "write s3://BUCKET/PREFIX"),
        ("s3:models", "write s3://BUCKET/PREFIX"),
        ("s3://", "write s3://BUCKET/PREFIX"),
        ("s3://?region=eu-west-1", "write s3://BUCKET/PREFIX"),
        ("s3://my bucket/models", "write s3://BUCKET/PREFIX"),
        ("s3://bucket/models#v1", "write s3://BUCKET/PREFIX"),
        ("s3://bucket:80/models", "write s3://BUCKET/PREFIX"),
        ("s3://key:hush@bucket/models", "holds no credentials"),
        ("s3://bucket/a//b", "an empty part"),
        ("s3://bucket/a/../b", "dots"),
        ("s3://bucket/a?endpoint=http://localhost", "only endpoint_url, region, timeout"),
        ("s3://bucket/a?endpoint_url=localhost:9000", "endpoint_url: write http"),
        ("s3://bucket/a?endpoint_url=http://key:hush@localhost", "endpoint_url: write http"),
        ("s3://bucket/a?timeout=soon", "no number of seconds"),
        ("s3://bucket/a?timeout=0", "no number of seconds"),
        ("s3://bucket/a?timeout=inf", "no number of seconds"),
    ],
)
def test_an_invalid_url_is_refused_before_any_request(url, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        open_store(url)
    assert "hush" not in str(refused.value)
