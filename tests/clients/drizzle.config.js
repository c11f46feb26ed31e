// docs:begin
export default {
  dialect: 'postgresql',
  out: './drizzle',
  schema: './drizzle_schema.js',
  dbCredentials: { url: process.env.DATABASE_URL },
  tablesFilter: ['!inventory_{attachment,sharing,movement,request,stripe,stripe_total}']
}
// docs:end
