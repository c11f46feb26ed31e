// docs:begin
export default {
  dialect: 'postgresql',
  out: './drizzle',
  schema: './drizzle_schema.js',
  dbCredentials: { url: process.env.DATABASE_URL },
  tablesFilter: ['!inventory_{attachment,sharing,movement*,request,stripe*,audit*,hot_items,latency,lock_queue,stats*}']
}
// docs:end
