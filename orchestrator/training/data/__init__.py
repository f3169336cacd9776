"""Training data: reads rows of many forms and writes verl's Parquet files."""
